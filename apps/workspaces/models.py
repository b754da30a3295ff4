"""What is stored of workspaces: snapshots of what they contained, by hash."""

from __future__ import annotations

from django.db import models


class WorkspaceFile(models.Model):
    """The bytes of a file, stored once for all snapshots that contain it."""

    digest = models.CharField(primary_key=True, max_length=64, help_text="Hex SHA-256 of the bytes.")
    content = models.BinaryField()

    class Meta:
        db_table = "workspace_files"

    def __str__(self) -> str:
        return self.digest


class Snapshot(models.Model):
    """Everything that a workspace contained at one moment. Its owner is a tenant, or everybody when it is empty."""

    id = models.BigAutoField(primary_key=True)
    tenant_id = models.CharField(max_length=128, blank=True)
    hash = models.CharField(max_length=80)
    created_at = models.DateTimeField()
    files = models.TextField(help_text="JSON object from path to the digest of its bytes.")

    class Meta:
        db_table = "workspace_snapshots"
        constraints = [models.UniqueConstraint(fields=["tenant_id", "hash"], name="workspace_snapshots_once")]

    def __str__(self) -> str:
        return self.hash
