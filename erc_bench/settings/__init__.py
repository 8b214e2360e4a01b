"""Which methods and corpora there are, and what a run's settings are."""
