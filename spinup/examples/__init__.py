"""Programs that stand by themselves: nothing of the package but the file you read, PyTorch and Gymnasium."""
