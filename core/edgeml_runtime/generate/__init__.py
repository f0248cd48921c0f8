"""Text generation: the loop over tokens, the chat template before it, the detokenizer after it."""
