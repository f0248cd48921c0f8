"""OpenAI's API for chats, completions and embeddings."""
