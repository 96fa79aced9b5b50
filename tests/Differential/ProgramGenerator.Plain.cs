using Bunraku.Silicon;
using Iced.Intel;
using G = Bunraku.Differential.GuestLayout;

namespace Bunraku.Differential;

/// <summary>Single instructions with their operands.</summary>
internal sealed partial class ProgramGenerator
{
    private Unit Plain(uint locked)
    {
        for (; ; )
        {
            Unit u = NewUnit();
            if (TryPlain(u, _pool.Next(_rng, Has(Feature.Vector)), locked)) return u;
            _group--;
        }
    }

    private bool TryPlain(Unit u, Code code, uint locked)
    {
        Rng r = _rng;
        Instruction i = _forms.Draft(code, _mode.Bits(), r.OneIn(2));
        i.SegmentPrefix = Register.None;
        int size = Math.Max(1, i.MemorySize.GetSize());
        var setup = new List<Instruction>(3);
        for (int n = 0; n < i.OpCount; n++)
        {
            switch (i.GetOpKind(n))
            {
                case OpKind.Memory:
                    if (i.Mnemonic == Mnemonic.Lea) break;
                    if (i.IsVsib)
                    {
                        if (!TryGather(ref i, locked, setup)) return false;
                        break;
                    }
                    if (!TryAddress(ref i, size, locked, setup)) return false;
                    break;
                case OpKind.MemorySegRSI or OpKind.MemorySegESI: setup.Add(Load(6, Area(64))); break;
                case OpKind.MemorySegRDI or OpKind.MemorySegEDI or OpKind.MemoryESRDI or OpKind.MemoryESEDI: setup.Add(Load(7, Area(64))); break;
                case OpKind.MemorySegSI or OpKind.MemorySegDI or OpKind.MemoryESDI: return false; // below 64 KiB nothing is mapped
                default: break;
            }
        }
        if (i.HasRepPrefix || i.HasRepnePrefix) setup.Add(Load(1, (uint)r.Below(9)));
        if (i.Mnemonic is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc && i.Op0Kind == OpKind.Memory && i.Op1Kind == OpKind.Register)
        {
            Register index = i.Op1Register.GetFullRegister();
            if (setup.Any(s => s.Op0Register.GetFullRegister() == index)) return false;
            setup.Add(Load(i.Op1Register.GetNumber(), (uint)r.Below(0x800)));
        }
        if (i.Mnemonic is Mnemonic.Div or Mnemonic.Idiv && !r.OneIn(12))
        {
            if (i.Op0Kind != OpKind.Register) return false;
            Register d = i.Op0Register.GetFullRegister();
            if (d.GetNumber() is 0 or 2 || i.Op0Register is Register.AH or Register.BH or Register.CH or Register.DH) return false;
            setup.Add(Load(d.GetNumber(), (uint)r.Below(100) + 20));
            setup.Add(Load(2, (uint)r.Below(8)));
            if (i.Op0Register.GetSize() == 1) setup.Add(Load(0, (uint)r.Below(0x800)));
        }
        foreach (Instruction s in setup)
        {
            if (s.Op0Register.IsGPR() && (locked >> s.Op0Register.GetNumber() & 1) != 0) return false;
        }
        if (!LeavesAlone(i, locked)) return false;
        foreach (Instruction s in setup)
        {
            if (!_w.TryAdd(u, s)) return false;
        }
        return _w.TryAdd(u, i);
    }

    /// <summary>The instruction with its memory operand near where a register points.</summary>
    private bool TryThrough(Unit u, Code code, int pointer, uint locked)
    {
        Instruction i = _forms.Draft(code, _mode.Bits(), true);
        i.SegmentPrefix = Register.None;
        if (!FormBuilder.HasMemory(i) || i.IsVsib || FormBuilder.AlignedArea(i.Mnemonic) || IsOffsetForm(i.Code)) return false;
        if (i.Mnemonic is Mnemonic.Bt or Mnemonic.Bts or Mnemonic.Btr or Mnemonic.Btc && i.Op1Kind == OpKind.Register) return false;
        i.MemoryBase = (Is64 ? Register.RAX : Register.EAX) + pointer;
        i.MemoryIndex = Register.None;
        i.MemoryIndexScale = 1;
        i.MemoryDisplacement64 = (ulong)(_rng.Below(0x40) - 0x20);
        i.MemoryDisplSize = 1;
        return LeavesAlone(i, locked) && _w.TryAdd(u, i);
    }

    /// <summary>The stack pointer moves by pushes and pops only, in units that know why; other registers may be locked.</summary>
    private bool LeavesAlone(in Instruction i, uint locked)
    {
        if (i.IsStackInstruction && i.Mnemonic is not (Mnemonic.Int3 or Mnemonic.Into or Mnemonic.Int1)) return false;
        foreach (UsedRegister used in _infos.GetInfo(i).GetUsedRegisters())
        {
            if (used.Access is OpAccess.Read or OpAccess.CondRead or OpAccess.NoMemAccess or OpAccess.None || !used.Register.IsGPR()) continue;
            int number = used.Register.GetFullRegister().GetNumber();
            if ((locked >> number & 1) != 0) return false;
            // Where exceptions switch stacks, a lost stack pointer may be seen now and then.
            if (number == 4 && !(Has(Feature.Wild) && _mode != ProgramMode.Protected0 && _rng.OneIn(20))) return false;
        }
        return true;
    }

    private static Instruction Load(int register, uint value) => Instruction.Create(Code.Mov_r32_imm32, Register.EAX + register, value);

    /// <summary>Gives the memory operand an address that is mostly good.</summary>
    private bool TryAddress(ref Instruction i, int size, uint locked, List<Instruction> setup)
    {
        Rng r = _rng;
        bool saveArea = FormBuilder.AlignedArea(i.Mnemonic);
        bool offset = i.MemoryDisplSize == 8 && i.MemoryBase == Register.None && i.MemoryIndex == Register.None && !saveArea && i.Mnemonic == Mnemonic.Mov
            && IsOffsetForm(i.Code);
        if (offset)
        {
            i.MemoryDisplSize = WordSize;
            i.MemoryDisplacement64 = Area(size);
            return true;
        }
        if (Has(Feature.Wild) && r.OneIn(24)) return KeepWild(ref i);
        uint area = Area(size);
        uint alignment = saveArea ? 63u : size >= 16 && !r.OneIn(24) ? 31u : 0;
        area &= ~alignment;
        i.MemoryIndex = Register.None;
        i.MemoryIndexScale = 1;
        Register first = Is64 && !r.OneIn(16) ? Register.RAX : Register.EAX;
        switch (r.Below(saveArea ? 2 : 12))
        {
            case 0: // absolute
                i.MemoryBase = Register.None;
                i.MemoryDisplSize = Is64 ? 8 : 4;
                i.MemoryDisplacement64 = area;
                return true;
            case 1 or 2:
                if (Is64)
                {
                    i.MemoryBase = Register.RIP;
                    i.MemoryDisplSize = 8;
                    i.MemoryDisplacement64 = area;
                    return true;
                }
                goto case 0;
            case 3 or 4: // on the stack
                if (alignment != 0) goto default;
                Set(ref i, first + 4, Register.None, (uint)r.Below(0x70), 1);
                return true;
            case 5 or 6 when alignment == 0: // depends on what was computed
                int number = OtherRegister(locked, 8);
                Register low = Is64 ? (number < 4 ? Register.AL + number : Register.SPL + (number - 4)) : Register.AL + number % 4;
                setup.Add(Instruction.Create(Code.Movzx_r32_rm8, Register.EAX + number, low));
                i.MemoryBase = Register.None;
                i.MemoryIndex = first + number;
                i.MemoryIndexScale = 1 << r.Below(4);
                i.MemoryDisplSize = 4;
                i.MemoryDisplacement64 = area;
                if (Is64 && first == Register.RAX) i.MemoryDisplSize = 8;
                return true;
            case 7 when Has(Feature.Segments): // FS or GS with a base
                i.SegmentPrefix = r.OneIn(2) ? Register.FS : Register.GS;
                i.MemoryBase = Register.None;
                i.MemoryDisplSize = Is64 ? 8 : 4;
                i.MemoryDisplacement64 = (uint)r.Below(0x3000) & ~alignment;
                return true;
            case 8 when Has(Feature.Wild): // whatever pointer is left in a register
                Set(ref i, first + r.Below(Registers), Register.None, (uint)(sbyte)r.Next(), 1);
                return true;
            default:
                int b = OtherRegister(locked);
                setup.Add(Load(b, area));
                if (r.OneIn(3) && alignment == 0)
                {
                    int index = OtherRegister(locked, 8);
                    if (index != b)
                    {
                        setup.Add(Load(index, (uint)r.Below(64)));
                        Set(ref i, first + b, first + index, (uint)(sbyte)r.Below(0x40), 1);
                        i.MemoryIndexScale = 1 << r.Below(4);
                        return true;
                    }
                }
                uint displacement = alignment != 0 ? 0 : (uint)(sbyte)r.Below(0x80);
                Set(ref i, first + b, Register.None, displacement, displacement != 0 || (b & 7) == 5 ? 1 : 0);
                return true;
        }

        static void Set(ref Instruction i, Register b, Register index, uint displacement, int displSize)
        {
            i.MemoryBase = b;
            i.MemoryIndex = index;
            i.MemoryDisplacement64 = (ulong)(int)displacement;
            i.MemoryDisplSize = displSize;
        }
    }

    /// <summary>A gather from mostly one place, by a mask that is mostly all ones.</summary>
    private bool TryGather(ref Instruction i, uint locked, List<Instruction> setup)
    {
        Register mask = i.Op2Register, index = i.MemoryIndex;
        int b = OtherRegister(locked);
        // #UD
        if (mask == Register.None || mask == i.Op0Register || i.Op0Register.GetNumber() == index.GetNumber() || mask.GetNumber() == index.GetNumber())
            return false;
        setup.Add(Load(b, Area(64)));
        setup.Add(Instruction.Create(Code.VEX_Vpsrld_ymm_ymm_imm8, Register.YMM0 + index.GetNumber(), Register.YMM0 + index.GetNumber(), 20 + _rng.Below(12)));
        if (!_rng.OneIn(4))
            setup.Add(Instruction.Create(Code.VEX_Vpcmpeqd_ymm_ymm_ymmm256, Register.YMM0 + mask.GetNumber(), Register.YMM0 + mask.GetNumber(),
                Register.YMM0 + mask.GetNumber()));
        i.MemoryBase = (Is64 ? Register.RAX : Register.EAX) + b;
        i.MemoryIndexScale = 1 << _rng.Below(2);
        i.MemoryDisplSize = 1;
        i.MemoryDisplacement64 = (ulong)_rng.Below(64);
        return true;
    }

    /// <summary>The operand stays as drafted: mostly it leads nowhere.</summary>
    private bool KeepWild(ref Instruction i)
    {
        if (i.MemoryBase is Register.RIP or Register.EIP || i.MemoryBase.GetSize() == 2 || i.MemoryIndex.GetSize() == 2) return false;
        if (!Is64 && i.MemoryDisplSize == 2) return false;
        return true;
    }

    private static bool IsOffsetForm(Code code) => code is Code.Mov_AL_moffs8 or Code.Mov_AX_moffs16 or Code.Mov_EAX_moffs32 or Code.Mov_RAX_moffs64
        or Code.Mov_moffs8_AL or Code.Mov_moffs16_AX or Code.Mov_moffs32_EAX or Code.Mov_moffs64_RAX;

    /// <summary>Linear address of an operand: mostly ordinary data, at times something special.</summary>
    private uint Area(int size)
    {
        Rng r = _rng;
        uint within = G.Data + 0x200 + (uint)r.Below((int)G.DataSize - 0x1400);
        uint area = r.Below(100) switch
        {
            < 8 => G.Data + (1 + (uint)r.Below(7)) * 0x1000 - (uint)r.Below(Math.Max(2, size) + 2), // across a page boundary
            < 12 when Has(Feature.Alias) => within + AnyAlias(),
            < 15 when Has(Feature.Remapping) => G.Swapped + 0x100 + (uint)r.Below(0x800),
            < 18 when Has(Feature.Remapping) => G.Repaired + 0x100 + (uint)r.Below(0x1A00),
            < 19 when Has(Feature.Wild) => G.ReadOnly + (uint)r.Below(0xF00),
            < 20 when Has(Feature.Wild) => G.Unmapped + (uint)r.Below(0x1000),
            // Data among code: writes to lines without code, through one of the mappings.
            < 23 when Has(Feature.SelfModifying) => G.Code + 0x8000 + (uint)r.Below(0x100) + (r.OneIn(2) ? AnyAlias() : 0),
            < 24 when Has(Feature.Mmio) && size <= 32 => G.Mmio + (uint)r.Below(0xF00),
            < 60 => G.Data + 0x1000 + (uint)r.Below(0x200), // a place where loads meet stores
            _ => within,
        };
        return G.Program + area;
    }
}
