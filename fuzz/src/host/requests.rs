//! Requests, right and wrong.

use super::*;

impl Host {
    /// A request, which may be wrong in one place, handed to `send`.
    pub(super) fn with_request(
        &self,
        work: Work,
        send: impl FnOnce(&blaze_request) -> blaze_status,
    ) -> blaze_status {
        let dtype = [1, 1, 1, 1, 7, 2, 8, 24][usize::from(work.dtype) % 8];
        let shape =
            [i64::from(work.rows % 6), i64::from(if work.columns % 4 == 0 { 4 } else { work.columns % 9 })];
        let bits = blaze::tensor::DType::from_code(dtype).map_or(0, |dtype| dtype.bits());
        let mut bytes = (shape[0] * shape[1]) as usize * bits / 8;
        if dtype == BLAZE_DTYPE_STRING {
            bytes = 0;
        }
        let mut input = Roomy { value: new_tensor(), rest: [0; 4096] };
        let mut output = Roomy { value: new_tensor(), rest: [0; 4096] };
        let mut request = Roomy { value: new_request(), rest: [0; 4096] };
        let tensor = &mut input.value;
        (tensor.dtype, tensor.shape, tensor.rank) = (dtype, shape.as_ptr(), 2);
        (tensor.data, tensor.size_bytes) = (self.memory(bytes).cast(), bytes);
        let value = &mut request.value;
        value.model = self.model(work.model);
        value.flags = u32::from(work.borrow);
        value.priority = i32::from(work.priority % 3);
        value.user_data = self.user_data();
        (value.tenant_id, value.session_id) = (u64::from(work.tenant % 5), u64::from(work.session % 4));
        value.route_key = u64::from(work.session);
        // Always: a run may hang.
        value.deadline_ns = blaze_now_ns() + [0, 1_000, 300_000, 2_000_000][usize::from(work.deadline) % 4];
        if work.buffer % 4 == 1 {
            output.value.dtype = dtype;
            output.value.size_bytes = usize::from(work.buffer) * 2;
            output.value.data = self.memory(output.value.size_bytes).cast();
            value.outputs_count = 1;
        }
        let name = c"y";
        let (mut has_inputs, mut inputs_count) = (true, 1);
        match work.wrong {
            1 => request.value.struct_size = SIZES[work.how as usize % 8],
            2 => input.value.struct_size = SIZES[work.how as usize % 8],
            3 => request.value.flags = work.how,
            4 => request.value.priority = work.how as i32,
            5 => request.value.reserved = work.how,
            6 => has_inputs = false,
            7 => inputs_count = if work.how.is_multiple_of(2) { 0 } else { work.how | 1 << 13 },
            8 => input.value.dtype = work.how,
            9 => input.value.rank = [0, 1, 33, u32::MAX][work.how as usize % 4],
            10 => input.value.shape = null(),
            11 => input.value.data = null_mut(),
            12 => input.value.size_bytes = bytes.min(work.how as usize),
            13 => (input.value.data, input.value.size_bytes) = (null_mut(), usize::MAX),
            14 => input.value.memory = work.how,
            15 => input.value.name = name.as_ptr(),
            16 => output.value.name = name.as_ptr(),
            17 => request.value.model = u64::from(work.how) << 20,
            18 => input.rest[work.how as usize % 64] = 1,
            19 => request.value.deadline_ns = 1,
            20 => output.value.struct_size = SIZES[work.how as usize % 8],
            21 => output.value.data = null_mut(),
            22 => input.value.reserved = work.how,
            23 => input.value.data = input.value.data.wrapping_byte_add(1),
            _ => {}
        }
        // Now that nothing changes any more.
        let inputs = if has_inputs { &raw const input.value } else { null() };
        (request.value.inputs, request.value.inputs_count) = (inputs, inputs_count);
        if request.value.outputs_count > 0 {
            request.value.outputs = &raw const output.value;
        }
        send(&request.value)
    }
}
