"""The driver for QEMU, the default: from distribution packages, on KVM or emulated in software."""
