"""The target model: what its files say, and the tiny target that is trained here."""
