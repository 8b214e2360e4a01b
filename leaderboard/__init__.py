"""Published rows (published.yaml); installed as erc_bench.published."""
