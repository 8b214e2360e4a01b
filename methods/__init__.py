"""The methods under comparison, one file each."""
