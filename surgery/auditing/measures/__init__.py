"""What is measured on pictures and predictions: similarity, replication, utility, quality."""
