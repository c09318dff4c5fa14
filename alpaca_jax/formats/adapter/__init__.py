"""LoRA adapters as PEFT saves them, merged into their base model while it is read."""
