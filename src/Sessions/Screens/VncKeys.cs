namespace Bunraku.Sessions.Screens;

/// <summary>
/// Keys as viewers name them, by X Window System keysyms (RFC 6143, section 7.5.4) or by numbers of scan code set 1, and what a keyboard sends for them: scan
/// code set 2 (Microsoft, "Keyboard Scan Code Specification"). The layout is that of the United States.
/// </summary>
internal static class VncKeys
{
    /// <summary>The flag of a key whose code has the prefix E0, in a number of set 1 as QEMU's extension has it.</summary>
    private const byte Extended = 0x80;
    private const byte ExtendedPrefix = 0xE0, ReleasePrefix = 0xF0;

    /// <summary>Numbers of set 1 of the shift keys.</summary>
    public const byte LeftShift = 0x2A, RightShift = 0x36;

    private const byte Pause = 0x46 | Extended, PrintScreen = 0x37 | Extended;

    /// <summary>Set 2 by the number of set 1; 0: there is no such key.</summary>
    private static ReadOnlySpan<byte> SetTwo =>
    [
        0x00, 0x76, 0x16, 0x1E, 0x26, 0x25, 0x2E, 0x36, 0x3D, 0x3E, 0x46, 0x45, 0x4E, 0x55, 0x66, 0x0D, // 00: Escape, digits
        0x15, 0x1D, 0x24, 0x2D, 0x2C, 0x35, 0x3C, 0x43, 0x44, 0x4D, 0x54, 0x5B, 0x5A, 0x14, 0x1C, 0x1B, // 10: QWERTY
        0x23, 0x2B, 0x34, 0x33, 0x3B, 0x42, 0x4B, 0x4C, 0x52, 0x0E, 0x12, 0x5D, 0x1A, 0x22, 0x21, 0x2A, // 20
        0x32, 0x31, 0x3A, 0x41, 0x49, 0x4A, 0x59, 0x7C, 0x11, 0x29, 0x58, 0x05, 0x06, 0x04, 0x0C, 0x03, // 30
        0x0B, 0x83, 0x0A, 0x01, 0x09, 0x77, 0x7E, 0x6C, 0x75, 0x7D, 0x7B, 0x6B, 0x73, 0x74, 0x79, 0x69, // 40: F6, keypad
        0x72, 0x7A, 0x70, 0x71, 0x7F, 0x60, 0x61, 0x78, 0x07, 0x0F, 0x17, 0x1F, 0x27, 0x2F, 0x37, 0x3F, // 50: F11, F12
        0x47, 0x4F, 0x56, 0x5E, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40, 0x48, 0x50, 0x57, 0x6F, // 60
        0x13, 0x19, 0x39, 0x51, 0x53, 0x5C, 0x5F, 0x62, 0x63, 0x64, 0x65, 0x67, 0x68, 0x6A, 0x6D, 0x6E, // 70
    ];

    /// <summary>The keys in rows: what each types without and with shift, from the number of set 1 on.</summary>
    private static readonly (byte First, string Plain, string Shifted)[] s_rows =
    [
        (0x02, "1234567890-=", "!@#$%^&*()_+"), (0x10, "qwertyuiop[]", "QWERTYUIOP{}"), (0x1E, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
        (0x2B, "\\zxcvbnm,./", "|ZXCVBNM<>?"), (0x39, " ", " "),
    ];

    /// <summary>Keys that type no character: keysym, number of set 1.</summary>
    private static readonly Dictionary<uint, byte> s_functions = new()
    {
        [0xFF08] = 0x0E, // BackSpace
        [0xFF09] = 0x0F, // Tab
        [0xFF0D] = 0x1C, // Return
        [0xFF1B] = 0x01, // Escape
        [0xFE20] = 0x0F, // ISO_Left_Tab
        [0xFFFF] = 0x53 | Extended, // Delete
        [0xFF50] = 0x47 | Extended, // Home
        [0xFF51] = 0x4B | Extended, // Left
        [0xFF52] = 0x48 | Extended, // Up
        [0xFF53] = 0x4D | Extended, // Right
        [0xFF54] = 0x50 | Extended, // Down
        [0xFF55] = 0x49 | Extended, // Page_Up
        [0xFF56] = 0x51 | Extended, // Page_Down
        [0xFF57] = 0x4F | Extended, // End
        [0xFF63] = 0x52 | Extended, // Insert
        [0xFF61] = PrintScreen, // Print
        [0xFF15] = PrintScreen, // Sys_Req
        [0xFF13] = Pause, // Pause
        [0xFF6B] = Pause, // Break
        [0xFF14] = 0x46, // Scroll_Lock
        [0xFF7F] = 0x45, // Num_Lock
        [0xFFE5] = 0x3A, // Caps_Lock
        [0xFFE1] = LeftShift, // Shift_L
        [0xFFE2] = RightShift, // Shift_R
        [0xFFE3] = 0x1D, // Control_L
        [0xFFE4] = 0x1D | Extended, // Control_R
        [0xFFE9] = 0x38, // Alt_L
        [0xFFEA] = 0x38 | Extended, // Alt_R
        [0xFFE7] = 0x38, // Meta_L
        [0xFFE8] = 0x38 | Extended, // Meta_R
        [0xFE03] = 0x38 | Extended, // ISO_Level3_Shift
        [0xFFEB] = 0x5B | Extended, // Super_L
        [0xFFEC] = 0x5C | Extended, // Super_R
        [0xFF67] = 0x5D | Extended, // Menu
        [0xFFBE] = 0x3B, // F1
        [0xFFBF] = 0x3C, // F2
        [0xFFC0] = 0x3D, // F3
        [0xFFC1] = 0x3E, // F4
        [0xFFC2] = 0x3F, // F5
        [0xFFC3] = 0x40, // F6
        [0xFFC4] = 0x41, // F7
        [0xFFC5] = 0x42, // F8
        [0xFFC6] = 0x43, // F9
        [0xFFC7] = 0x44, // F10
        [0xFFC8] = 0x57, // F11
        [0xFFC9] = 0x58, // F12
        [0xFF8D] = 0x1C | Extended, // KP_Enter
        [0xFFAA] = 0x37, // KP_Multiply
        [0xFFAB] = 0x4E, // KP_Add
        [0xFFAD] = 0x4A, // KP_Subtract
        [0xFFAE] = 0x53, // KP_Decimal
        [0xFFAF] = 0x35 | Extended, // KP_Divide
        [0xFFB0] = 0x52, // KP_0
        [0xFFB1] = 0x4F, // KP_1
        [0xFFB2] = 0x50, // KP_2
        [0xFFB3] = 0x51, // KP_3
        [0xFFB4] = 0x4B, // KP_4
        [0xFFB5] = 0x4C, // KP_5
        [0xFFB6] = 0x4D, // KP_6
        [0xFFB7] = 0x47, // KP_7
        [0xFFB8] = 0x48, // KP_8
        [0xFFB9] = 0x49, // KP_9
        [0xFF95] = 0x47, // KP_Home
        [0xFF96] = 0x4B, // KP_Left
        [0xFF97] = 0x48, // KP_Up
        [0xFF98] = 0x4D, // KP_Right
        [0xFF99] = 0x50, // KP_Down
        [0xFF9A] = 0x49, // KP_Page_Up
        [0xFF9B] = 0x51, // KP_Page_Down
        [0xFF9C] = 0x4F, // KP_End
        [0xFF9D] = 0x4C, // KP_Begin
        [0xFF9E] = 0x52, // KP_Insert
        [0xFF9F] = 0x53, // KP_Delete
    };

    /// <summary>The key of a keysym, as a number of set 1; null: a keyboard of this layout has none.</summary>
    /// <param name="shift">Whether the character needs a shift key; null: it makes no difference.</param>
    public static byte? Find(uint keysym, out bool? shift)
    {
        shift = null;
        if (s_functions.TryGetValue(keysym, out byte function)) return function;
        if (keysym is < ' ' or > '~') return null;
        foreach ((byte first, string plain, string shifted) in s_rows)
        {
            if (plain.IndexOf((char)keysym) is >= 0 and int n)
            {
                if (keysym != ' ') shift = false;
                return (byte)(first + n);
            }
            if (shifted.IndexOf((char)keysym) is >= 0 and int m)
            {
                shift = true;
                return (byte)(first + m);
            }
        }
        return null;
    }

    /// <summary>What a keyboard sends; nothing where there is no such key.</summary>
    /// <param name="key">Number of set 1, with the flag of the prefix.</param>
    /// <param name="down">The key goes down; else up.</param>
    public static byte[] ScanCodes(byte key, bool down)
    {
        switch (key)
        {
            // Two keys send more than a code: Print Screen a shift that is none, and Pause all of it when it goes down.
            case PrintScreen:
                return down ? [ExtendedPrefix, 0x12, ExtendedPrefix, 0x7C] : [ExtendedPrefix, ReleasePrefix, 0x7C, ExtendedPrefix, ReleasePrefix, 0x12];
            case Pause:
                return down ? [0xE1, 0x14, 0x77, 0xE1, ReleasePrefix, 0x14, ReleasePrefix, 0x77] : [];
        }
        byte code = SetTwo[key & ~Extended];
        if (code == 0) return [];
        return ((key & Extended) != 0, down) switch
        {
            (false, true) => [code],
            (false, false) => [ReleasePrefix, code],
            (true, true) => [ExtendedPrefix, code],
            (true, false) => [ExtendedPrefix, ReleasePrefix, code],
        };
    }
}
