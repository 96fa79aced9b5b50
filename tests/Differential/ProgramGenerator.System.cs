using Bunraku.Silicon;
using Iced.Intel;
using G = Bunraku.Differential.GuestLayout;

namespace Bunraku.Differential;

/// <summary>Units for what plain instructions cannot do: strings, changing code and pages, flags, system calls, devices.</summary>
internal sealed partial class ProgramGenerator
{
    private Unit String()
    {
        Unit u = NewUnit();
        Rng r = _rng;
        int count = r.OneIn(6) ? r.Below(0x400) : r.Below(40);
        _w.Load(u, 6, Area(64));
        _w.Load(u, 7, Area(64));
        _w.Load(u, 1, (uint)count);
        if (r.OneIn(5)) _w.Raw(u, 0xFD);
        byte[] prefix = r.Below(4) switch { 0 => [], 1 => [0xF2], _ => [0xF3] };
        byte opcode = r.Pick<byte>([0xA4, 0xA5, 0xAA, 0xAB, 0xAC, 0xAD, 0xA6, 0xA7, 0xAE, 0xAF]);
        byte[] size = r.Below(4) switch { 0 => [0x66], 1 when Is64 => [0x48], 2 when Is64 && r.OneIn(3) => [0x67], _ => [] };
        _w.Raw(u, size is [0x48] ? [.. prefix, 0x48, opcode] : [.. prefix, .. size, opcode]);
        _w.Raw(u, 0xFC);
        return u;
    }

    /// <summary>An instruction with a byte that may be changed while the program runs.</summary>
    private PatchSite Patchable(uint locked)
    {
        Unit u = NewUnit();
        int a = OtherRegister(locked, 8), b = OtherRegister(0, 8);
        PatchSite site;
        switch (_rng.Below(3))
        {
            case 0:
                _w.Load(u, a, (uint)_rng.Next());
                site = new PatchSite(u, 1 + _rng.Below(4), PatchKind.Immediate);
                break;
            case 1:
                _w.Raw(u, [0x83, (byte)(0xC0 | _rng.Below(8) << 3 | a), (byte)_rng.Next()]);
                site = new PatchSite(u, 2, PatchKind.Immediate);
                break;
            default:
                _w.Raw(u, [_rng.Pick<byte>(s_opcodes), (byte)(0xC0 | b << 3 | a)]);
                site = new PatchSite(u, 0, PatchKind.Opcode);
                break;
        }
        _sites.Add(site);
        return site;
    }

    /// <summary>Opcodes with the same operands and length.</summary>
    internal static readonly byte[] s_opcodes = [0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31, 0x39];

    /// <summary>A patchable instruction, and a store to that or to another one, near or far.</summary>
    private List<Unit> SelfModification(uint locked)
    {
        if ((locked & 1) != 0) return [Plain(locked)];
        PatchSite site = Patchable(locked);
        Unit patch = NewUnit();
        uint alias = !_codeWritable || _rng.OneIn(3) ? AnyAlias() : 0;
        // Not every iteration, so that the code in between is executed often enough to be worth translating.
        if (!_rng.OneIn(4)) _w.Memory(patch, [0xF6], 0, Slot.Seed + (uint)_rng.Below(4), (byte)(1 << _rng.Below(8) | 1 << _rng.Below(8)));
        int skip = patch.Bytes.Count == 0 ? -1 : patch.Bytes.Count;
        if (skip >= 0) _w.Raw(patch, 0x75, 0);
        if (site.Kind == PatchKind.Opcode)
        {
            _w.Memory(patch, [0x0F, 0xB6], 0, Slot.Seed + (uint)_rng.Below(4));
            _w.Raw(patch, 0x83, 0xE0, 7);
            _w.Raw(patch, [0x8A, 0x80, .. BitConverter.GetBytes(Slot.Opcodes)]);
        }
        else
        {
            _w.Memory(patch, [0x8A], 0, Slot.Seed + (uint)_rng.Below(4));
        }
        _w.WithAddress(patch, [0x88, .. _w.Absolute(0)], null, (int)alias);
        if (skip >= 0) patch.Bytes[skip + 1] = (byte)(patch.Bytes.Count - skip - 2);
        _patches.Add((patch, patch.Fixups.Count - 1, site));
        // Before its site: within the same block. Behind: it changes what a later iteration runs.
        return _rng.OneIn(2) ? [patch, site.Unit] : [site.Unit, patch];
    }

    private void AssignPatches()
    {
        foreach ((Unit unit, int fixup, PatchSite near) in _patches)
        {
            PatchSite[] all = [.. _sites.Where(s => s.Kind == near.Kind)];
            PatchSite site = _rng.OneIn(3) ? all[_rng.Below(all.Length)] : near;
            Fixup f = unit.Fixups[fixup];
            unit.Fixups[fixup] = f with { Target = site.Unit, Addend = f.Addend + site.Offset };
        }
    }

    private Unit Rare(uint locked, Action<Action<Unit>> forward)
    {
        Rng r = _rng;
        Feature[] possible = [.. s_rare.Where(f => Has(f))];
        if (possible.Length == 0) return Plain(locked);
        return possible[r.Below(possible.Length)] switch
        {
            Feature.Remapping => Remap(locked),
            Feature.Flags => ChangeFlags(),
            Feature.SystemCalls => SystemCall(locked, forward),
            Feature.Stepping => BeginStepping(),
            Feature.Devices => DeviceWrite(),
            Feature.Interrupts => AskForInterrupt(),
            Feature.Segments => LoadSegment(locked),
            Feature.Control => ControlRegister(locked),
            _ => Plain(locked),
        };
    }

    private static readonly Feature[] s_rare =
        [Feature.Remapping, Feature.Flags, Feature.SystemCalls, Feature.Stepping, Feature.Devices, Feature.Interrupts, Feature.Segments, Feature.Control];

    /// <summary>Exchanges a page of code or data, or takes one away.</summary>
    private Unit Remap(uint locked)
    {
        Unit u = NewUnit();
        (uint page, uint toggle) = _rng.Below(5) switch
        {
            0 or 1 => (G.Variant, 0x1000u),
            2 => (G.Swapped, 0x1000u),
            3 => (G.Repaired + (uint)_rng.Below(2) * 0x1000, 1u),
            _ => (G.Repaired + (uint)_rng.Below(2) * 0x1000, 2u),
        };
        bool reload = _rng.OneIn(3);
        // Toggling writability or presence must not be undone by the next iteration's toggle: the bit is cleared by writing through the toggle service only
        // when it is set.
        if (_mode.IsUser() || _rng.OneIn(4))
        {
            _w.Service(u, page, toggle, reload);
            return u;
        }
        if ((locked & 1) != 0) reload = false;
        uint entry = G.Kernel + Supervisor.Entry(page);
        if (toggle == 0x1000) _w.Memory(u, [0x81], 6, entry, BitConverter.GetBytes(toggle));
        else _w.Memory(u, [0x81], 4, entry, BitConverter.GetBytes(~toggle));
        if (reload)
        {
            _w.Raw(u, 0x0F, 0x20, 0xD8);
            _w.Raw(u, 0x0F, 0x22, 0xD8);
        }
        else
        {
            _w.Memory(u, [0x0F, 0x01], 7, G.Program + page);
        }
        return u;
    }

    private Unit ChangeFlags()
    {
        Unit u = NewUnit();
        switch (_rng.Below(7))
        {
            case 0: _w.Raw(u, 0xFA); break; // CLI
            case 1 or 2: _w.Raw(u, 0xFB); break; // STI
            case 3: _w.Raw(u, _rng.OneIn(2) ? (byte)0xFC : (byte)0xFD); break;
            case 4:
                _w.Raw(u, 0x9C);
                _w.Raw(u, [0x81, 0x34, 0x24, .. BitConverter.GetBytes((uint)_rng.Next() & 0x4_0CD5)]); // XOR [RSP], arithmetic flags, DF, AC
                _w.Raw(u, 0x9D);
                break;
            case 5:
                _w.Raw(u, 0x9C);
                _w.Raw(u, [0x81, 0x34, 0x24, .. BitConverter.GetBytes(0x200u)]); // XOR [RSP], IF
                _w.Raw(u, 0x9D);
                break;
            default: _w.Raw(u, 0x66, 0x9C); _w.Raw(u, 0x66, 0x9D); break;
        }
        return u;
    }

    private Unit SystemCall(uint locked, Action<Action<Unit>> forward)
    {
        Unit u = NewUnit();
        switch (_rng.Below(5))
        {
            case 4: // far return
                PushImmediate(u,
                    (_mode, Is64) switch
                    {
                        (ProgramMode.Long0, _) => G.Code64,
                        (ProgramMode.Protected0, _) => G.Code32,
                        (_, true) => G.UserCode64,
                        _ => G.UserCode32
                    });
                _w.WithAddress(u, [0x68], u);
                int far = u.Fixups.Count - 1;
                forward(target => u.Fixups[far] = u.Fixups[far] with { Target = target });
                _w.Raw(u, Is64 ? [0x48, 0xCB] : [0xCB]);
                break;
            case 0:
                _w.Raw(u, 0xCD, G.RoundTripVector);
                break;
            case 1 when _mode != ProgramMode.Protected0: // IRET to a place of its own
                if (Is64)
                {
                    if (locked != 0) goto case 0;
                    _w.Raw(u, 0x48, 0x89, 0xE0); // MOV RAX, RSP
                    PushImmediate(u, _mode.IsUser() ? G.UserData : G.Data0);
                    _w.Raw(u, 0x50);
                }
                _w.Raw(u, 0x9C);
                PushImmediate(u, (_mode, Is64) switch { (ProgramMode.Long0, _) => G.Code64, (_, true) => G.UserCode64, _ => G.UserCode32 });
                _w.WithAddress(u, [0x68], u);
                int at = u.Fixups.Count - 1;
                forward(target => u.Fixups[at] = u.Fixups[at] with { Target = target });
                _w.Raw(u, Is64 ? [0x48, 0xCF] : [0xCF]);
                break;
            case 2 or 3 when _mode is ProgramMode.Long3 or ProgramMode.Compatibility3 && (locked & 2) == 0:
                _w.Raw(u, 0x0F, 0x05);
                break;
            case 2 or 3 when _mode == ProgramMode.Protected3 && (locked & 6) == 0:
                // SYSEXIT takes EIP from EDX and ESP from ECX.
                _w.Raw(u, 0x89, 0xE1);
                _w.WithAddress(u, [0xBA], u, u.Bytes.Count + 5 + 2);
                _w.Raw(u, 0x0F, 0x34);
                break;
            default:
                goto case 0;
        }
        return u;
    }

    private void PushImmediate(Unit u, uint value) => _w.Raw(u, [0x68, .. BitConverter.GetBytes(value)]);

    private Unit BeginStepping()
    {
        Unit u = NewUnit();
        if (!_rng.OneIn(4))
        {
            _w.Memory(u, [0xF6], 0, Slot.Seed, (byte)(1 << _rng.Below(8)));
            _w.Raw(u, 0x75, 1 + 7 + 1);
        }
        _w.Raw(u, 0x9C);
        _w.Raw(u, [0x81, 0x0C, 0x24, .. BitConverter.GetBytes(0x100u)]);
        _w.Raw(u, 0x9D);
        return u;
    }

    /// <summary>The device behind the port writes to code or data.</summary>
    private Unit DeviceWrite()
    {
        Unit u = NewUnit();
        _w.Memory(u, [0xF6], 0, Slot.Seed, (byte)(1 << _rng.Below(8) | 1 << _rng.Below(8)));
        _w.Raw(u, 0x75, 2);
        _w.Raw(u, _rng.OneIn(4) ? (byte)0xE5 : (byte)0xE6, _rng.OneIn(4) ? (byte)G.DataPort : (byte)G.WritePort);
        return u;
    }

    private Unit AskForInterrupt()
    {
        Unit u = NewUnit();
        if (!_rng.OneIn(4))
        {
            _w.Memory(u, [0xF6], 0, Slot.Seed, (byte)(1 << _rng.Below(8) | 1 << _rng.Below(8)));
            _w.Raw(u, 0x75, 2);
        }
        _w.Raw(u, 0xE6, G.InterruptPort);
        if (_rng.OneIn(3)) _w.Raw(u, 0xFB);
        return u;
    }

    private Unit LoadSegment(uint locked)
    {
        if ((locked & 1) != 0) return Plain(locked);
        Unit u = NewUnit();
        if (Is64)
        {
            // The bases stay; WRFSBASE with another good one.
            if (_rng.OneIn(2))
            {
                _w.Load(u, 0, G.SegmentBase + (uint)_rng.Below(16) * 0x20);
                _w.Raw(u, 0xF3, 0x48, 0x0F, 0xAE, _rng.OneIn(2) ? (byte)0xD0 : (byte)0xD8);
            }
            else
            {
                _w.Raw(u, 0x8C, (byte)(0xC0 | _rng.Below(6) << 3)); // MOV EAX, segment
            }
            return u;
        }
        int segment = _rng.Pick<int>([0, 0, 3, 4, 5]);
        _w.Load(u, 0, _rng.OneIn(3) && segment >= 4 || _rng.OneIn(12) ? G.BasedData : _mode.IsUser() ? G.UserData : G.Data0);
        _w.Raw(u, 0x8E, (byte)(0xC0 | segment << 3));
        return u;
    }

    private Unit ControlRegister(uint locked)
    {
        Unit u = NewUnit();
        bool free = (locked & 1) == 0;
        switch (_rng.Below(6))
        {
            case 0 when free && !_mode.IsUser(): // CR4.TSD, or PGE off and on
                _w.Raw(u, 0x0F, 0x20, 0xE0);
                _w.Raw(u, [0x35, .. BitConverter.GetBytes(_rng.OneIn(2) ? 4u : 0x80u)]);
                _w.Raw(u, 0x0F, 0x22, 0xE0);
                break;
            case 1 when free && !_mode.IsUser(): // CR0.TS, through MOV
                _w.Raw(u, 0x0F, 0x20, 0xC0);
                _w.Raw(u, 0x83, 0xF0, 8);
                _w.Raw(u, 0x0F, 0x22, 0xC0);
                break;
            case 2 when !_mode.IsUser():
                _w.Raw(u, 0x0F, 0x06); // CLTS
                break;
            case 3 when free && _mode == ProgramMode.Long0: // CR8 exits
                _w.Raw(u, 0x44, 0x0F, (byte)(_rng.OneIn(2) ? 0x20 : 0x22), 0xC0);
                break;
            case 4 when (locked & 7) == 0 && !_mode.IsUser(): // an MSR outside the processor
                _w.Load(u, 1, 0x802);
                _w.Raw(u, 0x0F, (byte)(_rng.OneIn(2) ? 0x32 : 0x30));
                break;
            default:
                _w.Raw(u, 0xF3, 0x90); // PAUSE
                break;
        }
        return u;
    }
}
