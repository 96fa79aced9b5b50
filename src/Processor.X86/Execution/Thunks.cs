using Bunraku.Platform;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Emitted functions that execute one x87, MMX, SSE or AVX instruction on the host's own silicon with the guest's registers
/// and a host pointer for the memory operand. One instance a processor; found again by the instruction's encoding after
/// general registers and the memory operand are normalised, so that operands which differ only in these share a thunk.
/// </summary>
/// <remarks>Invariant: a pointer handed out stays callable until <see cref="Clear"/>.</remarks>
internal sealed unsafe class Thunks : IDisposable
{
    /// <summary>Bytes of code before everything is thrown away; about 40,000 thunks.</summary>
    private const ulong ArenaSize = 4 << 20;

    private ExecutableMemory? _arena; // made when the first instruction needs it
    private readonly Dictionary<ThunkKey, nint> _cache = [];
    private readonly ThunkEmitter _emitter = new();

    /// <summary>
    /// Called by the decoder for rows with <see cref="Row.Host"/>: sets <see cref="Insn.Thunk"/>. False: the arena is full; the caller
    /// drops every decoded block (none may be running), calls <see cref="Clear"/> and decodes again.
    /// </summary>
    public bool Prepare(in Instruction instruction, Insn* insn)
    {
        if (instruction.IsVsib)
        {
            insn->Extra = Gathered(instruction).Packed;
            return true;
        }
        Instruction normal = _emitter.Normalise(instruction, out ThunkKey key);
        if (!_cache.TryGetValue(key, out nint code))
        {
            code = (nint)(_arena ??= new ExecutableMemory(ArenaSize)).Append(_emitter.Emit(instruction, normal));
            if (code == 0) return false;
            _cache.Add(key, code);
        }
        if (ThunkForm.Get(instruction.Code).IsX87) insn->Imm = _emitter.X87Opcode(instruction);
        insn->Thunk = (delegate* unmanaged[SuppressGCTransition]<ProcessorState*, void*, void>)code;
        return true;
    }

    private static GatherOperands Gathered(in Instruction instruction)
    {
        int element = instruction.MemorySize.GetElementSize(), index = instruction.IsVsib32 ? 4 : 8;
        int count = Math.Min(instruction.Op0Register.GetSize() / element, instruction.MemoryIndex.GetSize() / index);
        return new GatherOperands(RegisterOffsets.Of(instruction.MemoryIndex), System.Numerics.BitOperations.Log2((uint)instruction.MemoryIndexScale), count);
    }

    /// <summary>Forgets all thunks. No decoded operation may refer to one any more.</summary>
    public void Clear()
    {
        _cache.Clear();
        _arena?.Clear();
    }

    public void Dispose() => _arena?.Dispose();
}

/// <summary>By what a thunk is found again: <see cref="ThunkEmitter.Normalise"/>.</summary>
/// <param name="Code">The bytes of the normalised instruction.</param>
/// <param name="Operands">Their number, and the general registers that were there.</param>
internal readonly record struct ThunkKey(ulong Code, uint Operands);
