"""Networks, training and prediction.

- `tiles`: normalized tiles in a memory-mapped store; augmentation; which tile is shown when
- `networks`: DeepLRHE's own, torchvision's and timm's; weights; model cards and the leak alarm
- `recipes`: what a training step is made of: recipe, losses, optimisers, state, scores
- `training`: one fold, all folds, several processes
- `scoring`: slides to scores, features, heat-map windows
- `probes`: features that know no label, and closed-form readers on them
- `rivals`: other methods and other settings on the same patients: ablations, attention MIL, the tuning protocol
- `attribution`: what a score rests on
"""
