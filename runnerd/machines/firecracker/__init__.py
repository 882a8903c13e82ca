"""The driver for Firecracker under its jailer, on hosts with KVM.

It has met Firecracker's published interface, played strictly by a fake. A real one, 1.12.1 with its jailer,
took all that it is asked but what is younger, and wrote and loaded snapshots; no guest came up on that host.
"""
