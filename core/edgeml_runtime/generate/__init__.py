"""Text written token by token: the loop, the chat in front of it, the detokenizer behind it."""
