"""The driver for Firecracker under its jailer, on hosts with KVM.

It has met Firecracker's published interface, played strictly by a fake, and not yet a real Firecracker.
"""
