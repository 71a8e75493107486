"""The protocol of OpenAI for a service with a language model: chat, completions, responses, embeddings, and the list of models.

`messages` and `responses` read and write its JSON, `tools` finds calls in text, `constraints` keeps answers to a schema, `sampling` chooses tokens,
`token_engine` runs the model step by step, `openai_routes` answers.
"""
