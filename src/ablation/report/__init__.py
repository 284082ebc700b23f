"""From records to evidence: tables, figures and a verdict on every claim. Nothing here imports torch.

evidence (records) -> studies (settings, cells, seeds) -> statistics, rules
    -> tables, figures, content -> page, documents, terminal
"""
