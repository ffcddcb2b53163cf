"""What stands between a version and its users.

verdicts       every gate, its verdict and its reason
gating         a version brought before the gates
parity         what was served comes out again, bit for bit
promotion      who may become live
model_card     what is told of a published model
trained_users  whom it learnt from, as hashes
"""
