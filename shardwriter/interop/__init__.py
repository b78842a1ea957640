"""Other people's formats and tools: one module each, which needs the extra of its name."""
