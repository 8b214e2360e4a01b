"""Settings of each method per corpus and preset, one YAML file each."""
