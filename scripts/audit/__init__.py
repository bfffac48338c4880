"""What releases compute beside what their papers say and what this project does: one short demonstration per finding.

    python scripts/audit                list all findings
    python scripts/audit script-dead-graph
    python scripts/audit all            exit status 1 when a claim does not hold

`docs/audit.md` cites them. Inputs are synthetic and seeded; released rules are re-stated from their mathematics.
"""
