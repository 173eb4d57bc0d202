"""One site: its shard, its ledger, its device."""
