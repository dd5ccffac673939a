"""twintape: record Binance order-book deltas on several machines; prove, merge and only then prune them."""
