using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Finds out what an instruction was doing to memory when it faulted, without executing it: a program that takes memory meets its page faults this way, and an
/// exception of the interpreter's costs more than all else that a fault does. Instructions with more than one access, conditional ones and those across pages
/// are left to the interpreter.
/// </summary>
internal sealed unsafe class FaultingAccess
{
    private readonly Processor _p;
    private readonly ShadowPeek _peek;
    private readonly CodeBytes _bytes = new();
    private readonly Decoder _decoder;
    private readonly InstructionInfoFactory _information = new();
    private readonly VATryGetRegisterValue _register;

    public FaultingAccess(Processor p, ShadowPeek peek)
    {
        (_p, _peek) = (p, peek);
        _decoder = Decoder.Create(64, _bytes, FeatureMap.Options(p.Model));
        _register = (Iced.Intel.Register register, int _, int _, out ulong value) => TryGet(register, out value);
    }

    /// <summary>The access of the instruction at RIP, in 64-bit mode, if it is the only one and lies in one page.</summary>
    /// <param name="address">Linear address that the processor has told of: that of the access, or it is not this one.</param>
    /// <param name="writes">The processor looks whether it may write.</param>
    public bool TryFind(ulong address, out bool writes)
    {
        writes = false;
        ulong rip = _p.State->Rip;
        ShadowSource code = _peek.Find(rip);
        if ((code.Rights & HelperProtection.Execute) == 0) return false;
        ulong within = rip & (GuestMemory.PageSize - 1);
        int length = (int)Math.Min(GuestMemory.PageSize - within, CodeBytes.MaxInstructionLength);
        _bytes.Set(_p.Memory.Backing.Pointer + code.Offset + within, length);
        _decoder.IP = rip;
        _decoder.Decode(out Instruction instruction);
        if (_decoder.LastError != DecoderError.None || instruction.Encoding is not (EncodingKind.Legacy or EncodingKind.VEX)) return false;
        if (instruction.Code == Code.Movsxd_r16_rm16) return false; // vendors do not agree on how much it reads
        InstructionInfo information = _information.GetInfo(instruction, InstructionInfoOptions.NoRegisterUsage);
        UsedMemory? only = null;
        foreach (UsedMemory memory in information.GetUsedMemory())
        {
            if (only != null) return false;
            only = memory;
        }
        if (only is not { AddressSize: CodeSize.Code64 } access) return false;
        int size = access.MemorySize.GetSize();
        if (size == 0 || (address & (GuestMemory.PageSize - 1)) + (ulong)size > GuestMemory.PageSize) return false;
        if (!access.TryGetVirtualAddress(0, out ulong found, _register) || found != address) return false;
        switch (access.Access)
        {
            case OpAccess.Read:
                return true;
            case OpAccess.Write or OpAccess.ReadWrite:
                writes = true;
                return true;
            default:
                return false;
        }
    }

    private bool TryGet(Iced.Intel.Register register, out ulong value)
    {
        ProcessorState* s = _p.State;
        // The other segments begin at 0.
        value = register.IsGPR64() ? *ProcessorState.Gpr(s, register.GetNumber())
            : register == Iced.Intel.Register.FS ? s->Fs.Base : register == Iced.Intel.Register.GS ? s->Gs.Base : 0;
        return true;
    }
}
