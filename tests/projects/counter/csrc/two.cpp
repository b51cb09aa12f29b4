#include <tally.h>
#if __has_include("optional.h")
#include "optional.h"
#else
#define OPTIONAL 0
#endif
extern "C" int two() { return TALLY * 10 + OPTIONAL; }
