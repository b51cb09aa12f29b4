#pragma once
#define HOST_ONLY 1
