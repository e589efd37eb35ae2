"""The program's Hydra configuration, installed as ``ray_reproducer.conf``: this file lets Hydra find it there."""
