"""The verb `convert`: a model of any format becomes a Hugging Face folder."""
