"""How the heads of several tasks read and share a backbone."""
