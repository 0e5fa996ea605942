"""What drives fairseq-train; it knows no run."""
