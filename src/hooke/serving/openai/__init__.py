"""The protocol of OpenAI for a service with a language model: chat, completions, embeddings, and the list of models.

`messages` reads and writes its JSON, `sampling` chooses tokens, `token_engine` runs the model step by step, `openai_routes` answers.
"""
