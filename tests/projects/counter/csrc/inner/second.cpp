#include "shared.h"
#include "deep.h"
extern "C" int second() { return SHARED * 100 + DEEP; }
