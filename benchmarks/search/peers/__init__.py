"""One file per peer: each drives the real library through its public interface and charges for every sample."""
