"""Compare brains with neural networks, and train networks toward brains."""
