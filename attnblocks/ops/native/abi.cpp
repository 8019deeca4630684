#include "api.h"

int attnblocks_abi() { return ATTNBLOCKS_ABI; }

int attnblocks_openmp() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}
