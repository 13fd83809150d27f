"""How each shipped weight was made."""
