#include "api.h"

ATTNBLOCKS_EXPORT int attnblocks_openmp() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}
