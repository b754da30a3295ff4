"""What is remembered of workspaces: the exact content that runs used, by its hash."""

from __future__ import annotations

from django.db import models


class WorkspaceFile(models.Model):
    """The bytes of a file, once for all contents that hold it."""

    digest = models.CharField(primary_key=True, max_length=64, help_text="Hex SHA-256 of the bytes.")
    content = models.BinaryField()

    class Meta:
        db_table = "workspace_files"

    def __str__(self) -> str:
        return self.digest


class WorkspaceContent(models.Model):
    """Everything that was read of a workspace at once. Workspaces are the operator's, shared by all tenants."""

    hash = models.CharField(primary_key=True, max_length=80)
    created_at = models.DateTimeField()
    files = models.TextField(help_text="JSON object from path to the digest of its bytes.")

    class Meta:
        db_table = "workspace_contents"

    def __str__(self) -> str:
        return self.hash
