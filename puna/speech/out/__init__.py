"""Speech out (section 8.2.2): written text to words, words to phones with prosody, phones to a wave."""
