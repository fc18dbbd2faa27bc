"""Reading and writing the model files of other codes."""
