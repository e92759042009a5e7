"""From text to batches: one data module per model family, over shared readers and one token-count batcher."""
