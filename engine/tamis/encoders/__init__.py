"""Networks that turn images into embeddings, and the file of a bundle's embeddings."""
