"""How the weights that the models package ships were trained. Nothing that serves imports this.

sources.py ─→ packages.py ─→ pictures.py ─→ crops.py ─┐
                                                      ├─→ pool.py ─→ loop.py (losses.py) ─→ shipping.py
                                        teacher.py ───┘                     └─→ evaluate.py ──┘
"""
