"""DATA: from the options of a command to sentences, token ids and references, without fairseq."""
