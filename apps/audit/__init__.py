"""The audit log: append-only, hash-chained per tenant, and provable. Every other app writes to it."""
