"""Our own TVM schedules for convolutional networks on CPUs.

``lowering.lower`` turns an ONNX model into fused functions, ``library.schedule_module``
gives every one of them a schedule, ``tuner.Tuner`` looks for better ones. Importing this
package imports nothing; its files import tvm.
"""

#: What the generated code is like; goes up with every change that makes kernels faster or slower, because latency
#: tables measured with other code are no longer true.
SCHEDULES_VERSION = 5
