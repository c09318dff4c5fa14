"""The verb `serve`: a model behind an OpenAI-compatible endpoint and a chat page."""
