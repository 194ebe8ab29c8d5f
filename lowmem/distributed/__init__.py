"""Several machines: data parallel on MPI (`lowmem[mpi]`), the same bits for any number of ranks.

`mpiexec -n 4 lowmem train ... --shards 4` runs four ranks; `lowmem.Trainer(..., shards=4, group=mpi())` does so in
Python. What ranks do with a batch is told in `lowmem.common.shards` and `lowmem.runtime.collectives`.
"""

from lowmem.runtime.collectives.mpi import MpiGroup, mpi

__all__ = ["MpiGroup", "mpi"]
