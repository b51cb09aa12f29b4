#include "deep.h"
#ifdef EXTRA
extern "C" int three() { return DEEP + EXTRA; }
#else
extern "C" int three() { return DEEP; }
#endif
