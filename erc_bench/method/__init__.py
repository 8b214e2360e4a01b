"""What a method is: its settings, what it reads, and how examples become batches."""
