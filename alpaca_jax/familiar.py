"""Words that people know from other trainers, and what they are called here."""

from collections.abc import Collection

_PARTS = "adapters can be merged by convert, but training them is not supported: train changes all weights but optimizer.frozen"
_PREFERENCES = "preferences and rewards are not supported; train learns from answers alone"
_QUANTIZED = "training quantized weights is not supported; convert writes dtype=q8_0 to GGUF"
_KEY = "keys come from the environment: teacher.key_env=NAME says from which variable"

_ABSENT = {
    _PARTS: "lora lora_r lora_rank lora_alpha lora_dropout lora_target use_lora peft use_peft adapter finetuning_type dora",
    _PREFERENCES: "dpo rlhf ppo grpo kto orpo reward_model reward rm pref_beta beta",
    _QUANTIZED: "qlora load_in_4bit load_in_8bit quantization quantization_bit bits",
    _KEY: "api_key key openai_api_key",
    "the same command continues from its last checkpoint": "resume resume_from_checkpoint resume_from auto_resume",
    "it is chosen by itself": "flash_attention flash_attn attn_implementation use_flash_attention",
}
ABSENT = {word: answer for answer, words in _ABSENT.items() for word in words.split()}

# Each key with other names of it; its own last part goes without saying.
_KEYS = {
    "optimizer.learning_rate": "lr peak_lr max_lr",
    "optimizer.weight_decay": "wd",
    "optimizer.warmup": "warmup_ratio warmup_steps",
    "optimizer.clip": "max_grad_norm grad_clip gradient_clip gradient_clipping",
    "optimizer.schedule": "lr_scheduler_type lr_scheduler scheduler",
    "optimizer.betas": "adam_beta1 adam_beta2",
    "optimizer.name": "optim",
    "batch.examples": "batch_size train_batch_size global_batch_size per_device_train_batch_size bs",
    "microbatches": "gradient_accumulation gradient_accumulation_steps grad_accum accumulation_steps micro_batch_size",
    "model.remat": "gradient_checkpointing activation_checkpointing use_gradient_checkpointing checkpointing",
    "epochs": "num_epochs num_train_epochs n_epochs max_epochs",
    "steps": "max_steps num_steps total_steps train_steps iterations",
    "dir": "output_dir output out out_dir save_dir run_dir",
    "model.source": "model_name_or_path model_name model_path base_model pretrained pretrained_model_name_or_path hf_model",
    "teacher.model": "model_name",
    "data.records": "dataset datasets dataset_name dataset_path dataset_dir data_path data_files train_file train_data",
    "data.max_length": "max_seq_length max_seq_len cutoff_len seq_len seq_length model_max_length context_length",
    "max_length": "max_model_len max_seq_len",
    "data.template": "chat_template prompt_template",
    "data.heldout": "val_size eval_size test_size validation_split eval_ratio",
    "model.tokenizer": "tokenizer_name tokenizer_name_or_path tokenizer_path",
    "model.compute_dtype": "bf16 fp16 torch_dtype dtype precision mixed_precision",
    "batch.packing": "sample_packing",
    "mesh.fsdp": "deepspeed zero",
    "mesh.tensor": "tensor_parallel tensor_parallel_size tp",
    "checkpoint.every_steps": "save_steps save_every save_interval checkpoint_every",
    "checkpoint.keep": "save_total_limit",
    "evaluate_every": "eval_steps eval_every eval_interval",
    "log_every": "logging_steps log_interval",
    "logging.wandb": "wandb_project report_to",
    "sampling.max_tokens": "max_new_tokens",
    "samples.max_tokens": "max_new_tokens",
    "samples.prompts": "prompt",
    "teacher.base_url": "api_base openai_api_base endpoint url",
    "teacher.concurrency": "num_workers workers parallel_requests",
    "count": "num_samples num_records num_instructions num_instructions_to_generate n",
    "budget.dollars": "max_cost max_dollars cost",
    "target": "export_dir save_path to_path",
}

_VERBS = {
    "train": "finetune fine-tune fine_tune tune sft fit pretrain pt train.py",
    "evaluate": "eval test score benchmark predict",
    "convert": "export merge quantize save download",
    "serve": "chat server api webchat webui ui infer inference run-model generate-text",
    "generate": "synthesize synth distill self-instruct self_instruct gen",
    "inspect": "data preview show view stats",
    "recipe": "run pipeline all demo reproduce",
    "jobs": "status logs cancel resume job queue",
}
VERBS = {word: verb for verb, words in _VERBS.items() for word in words.split()}


def key(word: str, keys: Collection[str]) -> str:
    """Returns "; here it is KEY" with those of a verb's dotted keys that a word means; what to know where it means none; else ""."""
    plain = word.lstrip("-").replace("-", "_").lower()
    found = [name for name in keys if name.rpartition(".")[2] == plain or plain in _KEYS.get(name, "").split()]
    if found:
        return f"; here it is {' or '.join(found)}"
    return f"; {ABSENT[plain]}" if plain in ABSENT else ""


def verb(word: str) -> str:
    """Returns "; here it is VERB" for another program's word; what to know where there is none; else ""."""
    plain = word.lower()
    return f"; here it is {VERBS[plain]}" if plain in VERBS else f"; {ABSENT[plain]}" if plain in ABSENT else ""
