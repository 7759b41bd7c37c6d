"""Vector environments behind one small protocol, and the reference scores of Atari."""
